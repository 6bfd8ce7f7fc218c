"""What a scrape of the server says, read by Prometheus' own parser."""

from __future__ import annotations

import requests
from prometheus_client.parser import text_string_to_metric_families

from tests.support.processes import wait_for
from tests.support.running_proxy import RunningProxy


class Scrape:
    """The samples of one text; names without the common prefix."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.families = list(text_string_to_metric_families(text))
        self.samples = [
            (sample.name.removeprefix("flowise_proxy_"), sample.labels, sample.value)
            for family in self.families
            for sample in family.samples
        ]

    def sum(self, name: str, **labels: str) -> float:
        """The sum of all samples of this name with these labels."""
        return sum(
            value
            for found, has, value in self.samples
            if found == name and all(has.get(label) == wanted for label, wanted in labels.items())
        )

    def labels(self, label: str) -> set[str]:
        """All values of a label."""
        return {has[label] for _, has, _ in self.samples if label in has}


def scraped(proxy: RunningProxy, key: str = "") -> Scrape:
    """What the server tells now."""
    headers = {"Connection": "close", **({"Authorization": f"Bearer {key}"} if key else {})}
    answer = requests.get(f"{proxy.url}/metrics", headers=headers, timeout=30)
    assert answer.status_code == 200, answer.text
    return Scrape(answer.text)


def counted(proxy: RunningProxy, name: str, value: float = 1, key: str = "", **labels: str) -> bool:
    """Whether soon so much is counted: a client has its answer before its line is written."""
    return wait_for(lambda: scraped(proxy, key).sum(name, **labels) == value, 10)
