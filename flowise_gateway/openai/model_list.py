"""Models as OpenAI's and Azure's lists show them."""

from __future__ import annotations

from typing import Any, Literal, TypedDict

from flowise_gateway.flow.model import Model


class ModelCapabilities(TypedDict):
    """What a model can do; null where Flowise does not tell."""

    chat_completion: bool
    completion: bool
    embeddings: bool
    inference: bool
    streaming: bool | None
    vision: bool | None
    files: bool | None
    memory: bool | None


class ModelFlowise(TypedDict):
    """What a request may set in the flow, null where it is not told; and which Flowise has the flow."""

    override_inputs: list[str] | None
    server: str


class ModelBody(TypedDict):
    """A model as OpenAI lists it, with the keys that Azure's clients read beside them."""

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
    """A model as Azure's list of deployments has it (data plane, 2022-12-01)."""

    id: str
    object: Literal["deployment"]
    model: str
    status: str
    owner: str
    created_at: int
    updated_at: int
    scale_settings: dict[str, str]


def model_body(model: Model) -> ModelBody:
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
        "flowise": {
            "override_inputs": None if model.inputs is None else sorted(model.inputs),
            "server": model.flowise,
        },
    }


def deployment_body(model: Model) -> Deployment:
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
