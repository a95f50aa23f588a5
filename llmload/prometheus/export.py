"""A run's totals as Prometheus or OpenMetrics text, filled into templates at each scrape, and its server."""

import threading
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from http import HTTPStatus
from socketserver import TCPServer, ThreadingMixIn
from typing import Any, Final
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from llmload.metrics.totals import RunTotals
from llmload.prometheus.families import (
    COMMON_LABELS,
    FAMILIES,
    HISTOGRAMS,
    INFO_LABELS,
    RUN_INFO,
    RUN_INFO_TEXT,
    Family,
    HistogramFamily,
    Snapshot,
)
from llmload.record import Slo
from llmload.stats.histogram import Exemplar

# A run's totals as Prometheus or OpenMetrics text: a template per set of labels, filled with values at each scrape.

OPEN_METRICS_END: Final = "# EOF\n"
_OPEN_METRICS: Final = "application/openmetrics-text"
_FAMILY_OF: Final[dict[str, Any]] = {"counter": CounterMetricFamily, "gauge": GaugeMetricFamily}
_VALUE_TEXT: Final[Callable[[float], str]] = floatToGoString
_Values = str | tuple[str, ...]
"""The values of a family's labels."""
_Figures = tuple[Mapping[Any, float], ...]


def exposition(snapshot: Snapshot, accept: str = "") -> tuple[bytes, str]:
    """Return every series of a snapshot and the content type, in the format that the `Accept` header asks for."""
    _, content_type = choose_encoder(accept)
    open_metrics = content_type.startswith(_OPEN_METRICS)
    labels = {name: snapshot.labels[name] for name in COMMON_LABELS}
    histograms = histogram_text(labels, snapshot.totals, snapshot.slo, open_metrics=open_metrics)
    end = OPEN_METRICS_END if open_metrics else ""
    return f"{family_text(snapshot, accept)}{histograms}{end}".encode(), content_type


def _template(lines: Iterable[str]) -> str:
    """Join the lines, with a `%s` for the value after each that is not a comment."""
    return "".join(f"{line.replace('%', '%%')}{'' if line.startswith('#') else ' %s'}\n" for line in lines)


# Counters and gauges: the library writes the text once per set of labels, since it takes too long for every scrape.


def family_text(snapshot: Snapshot, accept: str) -> str:
    """Return the lines of all counters, all gauges and the run's description; a count of nothing is 0."""
    figures = tuple(family.read(snapshot) for family in FAMILIES)
    common = tuple(snapshot.labels[name] for name in COMMON_LABELS)
    info = None if snapshot.info is None else tuple(snapshot.info[name] for name in INFO_LABELS)
    values = [value for family in figures for value in family.values()]
    if info is not None:
        values.append(float(snapshot.running))
    return _family_template(accept, common, tuple(map(tuple, figures)), info) % tuple(map(_VALUE_TEXT, values))


@lru_cache(maxsize=8)
def _family_template(
    accept: str, common: tuple[str, ...], keys: tuple[tuple[_Values, ...], ...], info: tuple[str, ...] | None
) -> str:
    """Return the library's text for these labels, with a `%s` for each value."""
    encode, _ = choose_encoder(accept)
    figures = tuple(dict.fromkeys(each, 0.0) for each in keys)
    text = encode(_Families(common, figures, info)).decode().removesuffix(OPEN_METRICS_END).removesuffix("\n")
    lines = text.split("\n")  # not splitlines(): a label may contain a character that it splits at
    return _template(line if line.startswith("#") else line.rpartition(" ")[0] for line in lines)


class _Families(Collector):
    """Passes all families to the library."""

    def __init__(self, common: tuple[str, ...], figures: _Figures, info: tuple[str, ...] | None) -> None:
        self._common, self._figures, self._info = common, figures, info

    def collect(self) -> Iterator[Metric]:
        """Yield every family, in the order of the table."""
        for family, figures in zip(FAMILIES, self._figures, strict=True):
            yield self._family(family, figures)
        described = GaugeMetricFamily(RUN_INFO, RUN_INFO_TEXT, labels=INFO_LABELS)
        if self._info is not None:
            described.add_metric(self._info, 0.0)
        yield described

    def _family(self, family: Family, figures: Mapping[Any, float]) -> Metric:
        names = (*COMMON_LABELS, *family.labels)
        metric: CounterMetricFamily | GaugeMetricFamily = _FAMILY_OF[family.kind](
            family.name, family.text, labels=names
        )
        for value, figure in figures.items():
            own = value if isinstance(value, tuple) else (value,) * len(family.labels)
            metric.add_metric([*self._common, *own], figure)
        return metric


# Histograms: written here, since the library takes 9 us a line and there are too many lines.

MAX_EXEMPLAR_CHARACTERS: Final = 128
"""OpenMetrics' limit on the length of an exemplar's label names and values together."""
_EXEMPLAR_LABEL: Final = "request_id"


def histogram_text(labels: Mapping[str, str], totals: RunTotals, slo: Slo, *, open_metrics: bool) -> str:
    """Return every histogram's lines, with exemplars in OpenMetrics (the classic format has none)."""
    return "".join(
        each.fill(totals, totals.exemplars.get(each.family.distribution, ()) if open_metrics else ())
        for each in _histogram_templates(tuple(labels.items()), slo)
    )


@dataclass(frozen=True, slots=True)
class _HistogramTemplate:
    """A histogram's text for one set of labels, with a `%s` for each number."""

    family: HistogramFamily
    bounds: tuple[float, ...]
    text: str

    def fill(self, totals: RunTotals, exemplars: Sequence[Exemplar]) -> str:
        histogram = totals.all_answers(self.family.distribution)
        counts = [*histogram.counts_at_most(self.bounds), histogram.count]
        values: list[object] = [*counts, counts[-1], repr(histogram.total)]
        for exemplar in sorted(exemplars, key=lambda each: each.value):  # a bucket shows one: the slowest
            index = bisect_left(self.bounds, exemplar.value)
            values[index] = f"{counts[index]}{_exemplar_text(exemplar)}"
        return self.text % tuple(values)


@lru_cache(maxsize=8)
def _histogram_templates(labels: tuple[tuple[str, str], ...], slo: Slo) -> tuple[_HistogramTemplate, ...]:
    inside = ",".join(f'{name}="{_escaped(value)}"' for name, value in sorted(labels))
    return tuple(_histogram_template(family, inside, slo) for family in HISTOGRAMS)


def _histogram_template(family: HistogramFamily, labels: str, slo: Slo) -> _HistogramTemplate:
    bounds, name = tuple(family.bounds(slo)), family.name
    lines = [f"# HELP {name} {family.text}", f"# TYPE {name} histogram"]
    lines += [f'{name}_bucket{{{labels},le="{bound}"}}' for bound in (*map(repr, bounds), "+Inf")]
    lines += [f"{name}_count{{{labels}}}", f"{name}_sum{{{labels}}}"]
    return _HistogramTemplate(family=family, bounds=bounds, text=_template(lines))


def _exemplar_text(exemplar: Exemplar) -> str:
    if len(_EXEMPLAR_LABEL) + len(exemplar.request_id) > MAX_EXEMPLAR_CHARACTERS:
        return ""
    label = f'{_EXEMPLAR_LABEL}="{_escaped(exemplar.request_id)}"'
    return f" # {{{label}}} {exemplar.value!r} {exemplar.unix_s:.3f}"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


PATH: Final = "/metrics"
_DELIVERY_S: Final = 0.2
"""Time for the scraper to read a written answer before the process ends."""


def wsgi_app(snapshot: Callable[[], Snapshot]) -> Any:
    """
    Return a WSGI application that takes a snapshot at each request and answers with its series.

    The answer is not compressed, which would block a busy process for longer.
    """

    def answer(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        if environ["REQUEST_METHOD"] not in {"GET", "HEAD"}:
            start_response(_status_line(HTTPStatus.METHOD_NOT_ALLOWED), [("Allow", "GET, HEAD")])
            return [b""]
        body, content_type = exposition(snapshot(), environ.get("HTTP_ACCEPT", ""))
        headers = [("Content-Type", content_type), ("Content-Length", str(len(body)))]
        start_response(_status_line(HTTPStatus.OK), headers)
        return [body if environ["REQUEST_METHOD"] == "GET" else b""]

    return answer


def _status_line(status: HTTPStatus) -> str:
    return f"{status.value} {status.phrase}"


class MetricsServer:
    """
    Serves a WSGI application at `/metrics` from its construction to `close`; OSError if it cannot listen.

    Its threads are greenlets, since Locust has patched the standard library.
    """

    def __init__(
        self,
        app: Any,
        host: str,
        port: int,
        ended: Callable[[], bool] = lambda: False,
        before: Callable[[Any], Any] = lambda app: app,
    ) -> None:
        """
        Start to serve; `ended` returns whether the run has ended, so that the series are final.

        `before` returns the WSGI application that is called first, and decides what reaches this one.
        """
        self._app, self._ended = app, ended
        self._seen_after_end = threading.Event()
        self._server = _Server((host, port), _SilentHandler)
        self._server.set_app(before(self._answer))
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def port(self) -> int:
        """The port that it listens on, also if 0 was given."""
        return int(self._server.server_port)

    def linger(self, at_most_s: float) -> bool:
        """Wait until a scrape that began after the run's end has been answered; False if none came in time."""
        seen = self._seen_after_end.wait(at_most_s)
        if seen:
            threading.Event().wait(_DELIVERY_S)
        return seen

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        if environ["PATH_INFO"] != PATH:
            start_response(_status_line(HTTPStatus.NOT_FOUND), [("Content-Type", "text/plain")])
            yield f"The series are at {PATH}\n".encode()
            return
        is_final = self._ended() and environ["REQUEST_METHOD"] == "GET"
        yield from self._app(environ, start_response)
        if is_final:  # the server asks for the next piece once it has written this one
            self._seen_after_end.set()


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True

    def server_bind(self) -> None:
        """Bind without the name lookup of the standard library, which may wait for a name server."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment] # an address of AF_INET
        self.setup_environ()


class _SilentHandler(WSGIRequestHandler):
    def log_message(self, *_: object) -> None:
        """Log nothing: one line per scrape would bury the run's own lines."""
