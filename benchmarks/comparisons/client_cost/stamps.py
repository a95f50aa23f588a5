"""llmload's stamps compared with the truth, chunk by chunk: both sides read the same CLOCK_MONOTONIC."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from benchmarks.tools.bench_run import ClientRun
from benchmarks.tools.llmload_client import request_lines
from benchmarks.tools.truth_engine.log import Seconds
from llmload.units import NS_PER_S


@dataclass(frozen=True, kw_only=True, eq=False)
class Stamps:
    """Errors of llmload's stamps, for chunks that were read alone."""

    arrival_error_s: Seconds
    """Stamp of arrival - write."""
    itl_error_s: Seconds
    """Gap between two chunks, each read alone, less the gap between their writes."""
    ttft_error_s: Seconds
    """TTFT less the time from start to the write of the first chunk."""
    chunks: int
    coalesced: int
    """Chunks that share their stamp with another."""

    @cached_property
    def coalesced_share(self) -> float:
        """Fraction of the chunks that share their stamp with another."""
        return self.coalesced / self.chunks

    @staticmethod
    def p99(errors_s: Seconds) -> float:
        """Return the 99th percentile of the absolute errors."""
        return float(np.quantile(np.abs(errors_s), 0.99))

    @classmethod
    def of(cls, run: ClientRun) -> "Stamps":
        """Match the run's requests with the engine's log; ValueError if a request has another number of chunks."""
        truth = {answer.request_id: answer for answer in run.truth.answers}
        arrivals, gaps, firsts = [], [], []
        chunks = coalesced = 0
        for line in request_lines(run.folder):
            writes_ns = truth[line["request_id"]].writes_ns
            stamps_ns = line["started_ns"] + np.cumsum(np.array(line["chunk_gaps_ns"], dtype=np.int64))
            if len(stamps_ns) != len(writes_ns):
                raise ValueError(f"{line['request_id']}: {len(stamps_ns)} chunks counted, {len(writes_ns)} written")
            shared = np.diff(stamps_ns) == 0
            alone = ~(np.append(shared, False) | np.insert(shared, 0, False))
            error_s = (stamps_ns - writes_ns) / NS_PER_S
            arrivals.append(error_s[alone])
            gaps.append(np.diff(error_s)[alone[1:] & alone[:-1]])
            firsts.append(error_s[:1][alone[:1]])
            chunks += len(stamps_ns)
            coalesced += int(np.count_nonzero(~alone))
        return cls(
            arrival_error_s=np.concatenate(arrivals),
            itl_error_s=np.concatenate(gaps),
            ttft_error_s=np.concatenate(firsts),
            chunks=chunks,
            coalesced=coalesced,
        )
