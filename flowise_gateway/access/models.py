"""Models by name: those of `proxy.yaml`, discovered flows, any flow's id; and which a caller may use."""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

from flowise_gateway.access.keys import Caller
from flowise_gateway.config.schema import ModelConfig, ProxyConfig
from flowise_gateway.flow.errors import FlowiseRefused, FlowiseUnavailable, ModelNotFound, ProxyError
from flowise_gateway.flow.model import FLOW_ID, MODEL_ID, Model
from flowise_gateway.flowise.profiles import FlowProfile


class Profiles(Protocol):
    """What models need of a catalog."""

    def profiles(self) -> list[FlowProfile]:
        """List all flows."""

    def by_slug(self, slug: str) -> FlowProfile | None:
        """Find the flow of a slug."""

    def by_flow(self, flow: str) -> FlowProfile | None:
        """Find the flow of an id."""

    def failure(self) -> ProxyError | None:
        """Tell why the flows are not known, if they are not."""


class Models:
    """The models of one configuration over one catalog, as one caller may use them."""

    def __init__(self, config: ProxyConfig, catalog: Profiles, caller: Caller) -> None:
        """Take the configuration and the catalog as they are now."""
        self._config = config
        self._catalog = catalog
        self._caller = caller
        self._taken = {name for model in config.models for name in (model.id, *model.aliases)}

    def listed(self) -> list[Model]:
        """What the caller may use: configured models, then flows that no configured model stands for.

        Raises FlowiseRefused for a caller whose own key Flowise refuses, and the catalog's failure if no flow
        is known: clients would take an empty list for the truth.
        """
        models = self._listed()
        failure = self._catalog.failure() if self._config.discovery.enabled else None
        if failure is not None and not models and not self._catalog.profiles():
            raise failure
        return models

    def _listed(self) -> list[Model]:
        profiles = self._profiles()
        self._check_key()
        configured = [self._configured(model) for model in self._config.models]
        taken = self._taken | {model.flow for model in configured}
        found = [self._discovered(profile) for profile in profiles if profile.flow not in taken]
        models = [*configured, *(model for model in found if model.id not in taken)]
        return [model for model in models if self._caller.may_use(model.names)]

    def _check_key(self) -> None:
        failure = self._catalog.failure() if self._config.discovery.enabled else None
        if self._caller.flowise_key and isinstance(failure, FlowiseRefused):
            raise failure

    def resolve(self, name: str) -> Model:
        """The model of this name. Raises ModelNotFound, alike for unknown and for not allowed."""
        model = self._named(name) if MODEL_ID.fullmatch(name) else None
        if model is None or not self._caller.may_use(model.names):
            shown = name if MODEL_ID.fullmatch(name) else "".join(filter(str.isprintable, name[:40]))
            raise ModelNotFound(
                f"The model `{shown}` does not exist or you do not have access to it. "
                "GET /v1/models lists what there is.",
                param="model",
            )
        return model

    def known(self, name: str) -> Model:
        """The model of this name as the list describes it. Raises ModelNotFound."""
        listed = {model.id: model for model in self._listed()}
        return listed.get(name) or self.resolve(name)

    def _named(self, name: str) -> Model | None:
        for configured in self._config.models:
            if name == configured.id or name in configured.aliases:
                return self._configured(configured)
        if FLOW_ID.fullmatch(name):
            return self._of_flow(name.lower())
        if not self._config.discovery.enabled:
            return None
        profile = self._catalog.by_slug(name)
        if profile is None:
            self._check_key()
            failure = self._catalog.failure()
            if isinstance(failure, FlowiseUnavailable):
                raise failure  # whether there is such a model cannot be known; trying again may help
            return None
        return self._of_flow(profile.flow) if profile.type in self._config.discovery.types else None

    def _of_flow(self, flow: str) -> Model:
        """The file's first model of this flow that the caller may use, else the flow itself."""
        configured = [self._configured(model) for model in self._config.models if model.flow.lower() == flow]
        usable = [model for model in configured if self._caller.may_use(model.names)]
        if configured:
            return (usable or configured)[0]
        return self._discovered(self._catalog.by_flow(flow) or FlowProfile(flow, "", type=""))

    def _profiles(self) -> list[FlowProfile]:
        discovery = self._config.discovery
        profiles = self._catalog.profiles() if discovery.enabled else []
        return [profile for profile in profiles if profile.type in discovery.types]

    def _discovered(self, profile: FlowProfile) -> Model:
        slug = "" if self._config.discovery.ids == "uuid" else profile.slug
        return _model(slug or profile.flow, profile, self._names(profile))

    def _names(self, profile: FlowProfile) -> frozenset[str]:
        """The names of a flow itself: its id, and those of its slugs that lead to it."""
        discovery = self._config.discovery
        is_found = discovery.enabled and profile.type in discovery.types
        slugs = {profile.slug, profile.first_slug} - self._taken - {""} if is_found else set()
        return frozenset([profile.flow, *slugs])

    def _configured(self, config: ModelConfig) -> Model:
        flow = config.flow.lower()
        profile = self._catalog.by_flow(flow) or FlowProfile(flow, "", type="")
        model = _model(config.id, profile, self._names(profile) | {config.id, *config.aliases})
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
        profile.name or model_id,
        created=profile.created,
        type=profile.type,
        names=names,
        streams=profile.streams,
        takes_images=profile.takes_images,
        takes_files=profile.takes_files,
        takes_audio=profile.takes_audio,
        has_memory=profile.has_memory,
        chains_models=profile.chains_models,
        inputs=profile.inputs,
    )
