"""Models in the formats of OpenAI's and Azure's lists."""

from __future__ import annotations

from typing import Any, Literal, TypedDict

from flowise_gateway.flow.model import Model


class ModelCapabilities(TypedDict):
    """Capabilities of a model; null if Flowise does not report them."""

    chat_completion: bool
    completion: bool
    embeddings: bool
    inference: bool
    streaming: bool | None
    vision: bool | None
    files: bool | None
    memory: bool | None


class ModelFlowise(TypedDict):
    """The override inputs of the flow, null if unknown, and the name of its Flowise."""

    override_inputs: list[str] | None
    server: str


class ModelBody(TypedDict):
    """A model as OpenAI lists it, with additional keys for Azure's clients."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    permission: list[Any]
    root: str
    parent: None
    provider: str
    name: str
    description: str
    type: str
    status: str
    created_at: int
    lifecycle_status: str
    capabilities: ModelCapabilities
    flowise: ModelFlowise


class Deployment(TypedDict):
    """A model as an entry of Azure's list of deployments (data plane, 2022-12-01)."""

    id: str
    object: Literal["deployment"]
    model: str
    status: str
    owner: str
    created_at: int
    updated_at: int
    scale_settings: dict[str, str]


def model_body(model: Model) -> ModelBody:
    """A model as OpenAI lists it, with additional keys for Azure's clients."""
    return {
        "id": model.id,
        "object": "model",
        "created": model.created,
        "owned_by": "flowise",
        "permission": [],
        "root": model.id,
        "parent": None,
        "provider": "flowise",
        "name": model.name,
        "description": model.description,
        "type": model.type,
        "status": "succeeded",
        "created_at": model.created,
        "lifecycle_status": "generally-available",
        "capabilities": {
            "chat_completion": True,
            "completion": True,
            "embeddings": False,
            "inference": True,
            "streaming": model.streams,
            "vision": model.takes_images,
            "files": model.takes_files,
            "memory": model.has_memory,
        },
        "flowise": {
            "override_inputs": None if model.inputs is None else sorted(model.inputs),
            "server": model.flowise,
        },
    }


def deployment_body(model: Model) -> Deployment:
    """A model as an entry of Azure's list of deployments (data plane, 2022-12-01)."""
    return {
        "object": "deployment",
        "id": model.id,
        "model": model.id,
        "status": "succeeded",
        "owner": "flowise",
        "created_at": model.created,
        "updated_at": model.created,
        "scale_settings": {"scale_type": "standard"},
    }
