"""Models as OpenAI's and Azure's lists show them."""

from __future__ import annotations

from typing import Any

from flowise_gateway.flow.model import Model


def model_body(model: Model) -> dict[str, Any]:
    """A model as OpenAI lists it, with the keys that Azure's clients read beside them."""
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
        # What a request may set in the flow; null where Flowise does not tell.
        "flowise": {"override_inputs": None if model.inputs is None else sorted(model.inputs)},
    }


def deployment_body(model: Model) -> dict[str, Any]:
    """A model as Azure's list of deployments has it (data plane, 2022-12-01)."""
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
