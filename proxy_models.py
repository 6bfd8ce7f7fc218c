"""Names to flows: models of `proxy.yaml`, discovered ones, any flow's id; and who may use which. Policy."""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

from flow_turn import FLOW_ID, MODEL_ID, Model
from flowise_profiles import FlowProfile
from proxy_auth import Caller
from proxy_config import ModelConfig, ProxyConfig
from proxy_errors import FlowiseUnavailable, ModelNotFound, ProxyError


class Profiles(Protocol):
    """What is asked of a catalog."""

    def profiles(self) -> list[FlowProfile]:
        """List all flows."""

    def by_slug(self, slug: str) -> FlowProfile | None:
        """Find the flow of a slug."""

    def by_flow(self, flow: str) -> FlowProfile | None:
        """Find the flow of an id."""

    def failure(self) -> ProxyError | None:
        """Tell why there has never been a listing."""


class Models:
    """The models of one configuration over one catalog, as one caller may use them."""

    def __init__(self, config: ProxyConfig, catalog: Profiles, caller: Caller) -> None:
        """Look at the configuration and the catalog as they are now."""
        self._config = config
        self._catalog = catalog
        self._caller = caller

    def listed(self) -> list[Model]:
        """What the caller may use: configured models, then flows that no configured model stands for."""
        configured = [self._configured(model) for model in self._config.models]
        taken = frozenset[str]().union(*(model.names for model in configured))
        found = [self._discovered(profile) for profile in self._profiles()]
        models = [*configured, *(m for m in found if m.flow not in taken and m.id not in taken)]
        return [model for model in models if self._caller.may_use(model.names)]

    def resolve(self, name: str) -> Model:
        """The model of this name. Raises ModelNotFound, alike for unknown and for not allowed."""
        model = self._named(name) if MODEL_ID.fullmatch(name) else None
        if model is None or not self._caller.may_use(model.names):
            shown = name if MODEL_ID.fullmatch(name) else name[:40].encode("ascii", "replace").decode()
            raise ModelNotFound(
                f"The model `{shown}` does not exist or you do not have access to it. "
                "GET /v1/models lists what there is.",
                param="model",
            )
        return model

    def known(self, name: str) -> Model:
        """The model of this name as the list describes it. Raises ModelNotFound."""
        listed = {model.id: model for model in self.listed()}
        return listed.get(name) or self.resolve(name)

    def _named(self, name: str) -> Model | None:
        for configured in self._config.models:
            if name == configured.id or name in configured.aliases:
                return self._configured(configured)
        if FLOW_ID.fullmatch(name):
            return self._of_flow(name.lower())
        profile = self._catalog.by_slug(name) if self._config.discovery.enabled else None
        failure = self._catalog.failure() if profile is None and self._config.discovery.enabled else None
        if isinstance(failure, FlowiseUnavailable):
            raise failure  # whether there is such a model cannot be known; trying again may help
        if profile is None or profile.type not in self._config.discovery.types:
            return None
        return self._discovered(profile)

    def _of_flow(self, flow: str) -> Model:
        for configured in self._config.models:
            if configured.flow.lower() == flow:
                return self._configured(configured)
        profile = self._catalog.by_flow(flow)
        return self._discovered(profile) if profile else Model(flow, flow, flow, names=frozenset([flow]))

    def _profiles(self) -> list[FlowProfile]:
        discovery = self._config.discovery
        profiles = self._catalog.profiles() if discovery.enabled else []
        return [profile for profile in profiles if profile.type in discovery.types]

    def _discovered(self, profile: FlowProfile) -> Model:
        shown = profile.flow if self._config.discovery.ids == "uuid" else profile.slug
        return _model(shown, profile, frozenset([profile.slug, profile.flow]))

    def _configured(self, config: ModelConfig) -> Model:
        flow = config.flow.lower()
        profile = self._catalog.by_flow(flow) or FlowProfile(flow, config.id)
        model = _model(config.id, profile, frozenset([config.id, flow, *config.aliases]))
        return replace(
            model,
            name=config.name or model.name,
            description=config.description,
            request_timeout=config.request_timeout,
            fallback=config.fallback,
            history=config.history,
            system=config.system,
            steps=config.steps,
            sources=config.sources,
            usage=config.usage,
            tools=config.tools,
        )


def _model(model_id: str, profile: FlowProfile, names: frozenset[str]) -> Model:
    return Model(
        model_id,
        profile.flow,
        profile.name,
        created=profile.created,
        type=profile.type,
        names=names,
        streams=profile.streams,
        takes_images=profile.takes_images,
        takes_files=profile.takes_files,
        takes_audio=profile.takes_audio,
        has_memory=profile.has_memory,
        inputs=profile.inputs,
    )
