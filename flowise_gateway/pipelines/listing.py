"""Presents a pipeline as a flow of Flowise: id, listing row, probe results."""

from __future__ import annotations

import time
import uuid
from typing import Any

import orjson

from flowise_gateway.pipelines.process import PipelineProfile
from flowise_gateway.pipelines.supervisor import Pipeline

Json = dict[str, Any]
VERSION = "3.1.4"
"""The Flowise version whose API is implemented."""

_NAMESPACE = uuid.UUID("5d3c4c5e-0f0a-4b8e-9d57-2f6d0f8c9a11")
_MAX_IMAGE_MB = 5


def flow_id(name: str) -> str:
    """A deterministic id for a name."""
    return str(uuid.uuid5(_NAMESPACE, name))


def flow_row(pipeline: Pipeline) -> Json:
    """The pipeline as a row of Flowise's listing: an agentflow without memory, each component a node."""
    profile = pipeline.profile or PipelineProfile()
    inputs = [{"name": name, "type": "string", "enabled": True} for name in profile.inputs]
    moment = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(pipeline.changed_at))
    overrides = {"overrideConfig": {"status": True, "nodes": {"Start": inputs}}}
    return {
        "id": flow_id(pipeline.config.id),
        "name": pipeline.config.id,
        "flowData": drawing(profile),
        "deployed": True,
        "isPublic": False,
        "apikeyid": None,
        "chatbotConfig": None,
        "apiConfig": orjson.dumps(overrides).decode(),
        "type": "AGENTFLOW",
        "createdDate": "2026-01-01T00:00:00.000Z",
        "updatedDate": moment,
    }


def drawing(profile: PipelineProfile) -> str:
    """The pipeline as Flowise's flow definition, a JSON string."""
    start = ("startAgentflow_0", "Start", "startAgentflow", {"startInputType": "chatInput"})
    nodes = [start, *((name, name, kind, {}) for name, kind in profile.components.items())]
    drawn = [
        {
            "id": node_id,
            "type": "agentFlow",
            "data": {
                "id": node_id,
                "label": label,
                "name": kind,
                "category": "Agent Flows",
                "inputs": inputs,
            },
        }
        for node_id, label, kind, inputs in nodes
    ]
    return orjson.dumps({"nodes": drawn, "edges": []}).decode()


def uploads(pipeline: Pipeline) -> Json:
    """What `chatflows-uploads` says of the pipeline."""
    takes = pipeline.config.images
    types = ["image/gif", "image/jpeg", "image/png", "image/webp", ""]
    return {
        "isSpeechToTextEnabled": False,
        "isImageUploadAllowed": takes,
        "isRAGFileUploadAllowed": False,
        "imgUploadSizeAndTypes": [{"fileTypes": types, "maxUploadSize": _MAX_IMAGE_MB}] if takes else [],
        "fileUploadSizeAndTypes": [],
    }
