"""
The embedded simulated engine: it answers like vLLM and TGI, at times that are known beforehand.

Nothing is computed but the clock. Every answer says that it is simulated: `/version`, `owned_by` in `/v1/models`,
`system_fingerprint` and the `Server` header. `formulas` states when each token is due, `faults` what can be made to
go wrong, `truth_log` what is written down about each request.

    settings    SimulationSettings: every knob, checked
    formulas    tokens of a prompt, tokens of an answer, time to the first token, gap between tokens
    asked       what a request body asks for, or why it is refused
    formats     the bytes of an answer as vLLM and as TGI send them
    prefix_cache which prompt tokens need not be computed again
    faults      which requests fail, and how
    generation  one request being answered: its next token, written and stamped
    batch       slots, the queue before them, and the schedule of due tokens
    alarm       wakes the event loop at a nanosecond of the monotonic clock
    metrics     what was done, under vLLM's names
    truth_log   one JSON line a request
    connection  HTTP/1.1 over one socket
    routes      what is answered to which path
    server      SimulatedEngine and its life, in a loop, in a thread or until a signal
    spawned     an engine as a process of its own
"""

from llmload.simulator.server import SimulatedEngine, SpawnedEngine, run_until_signal, serve, spawn
from llmload.simulator.settings import SimulationSettings

__all__ = ["SimulatedEngine", "SimulationSettings", "SpawnedEngine", "run_until_signal", "serve", "spawn"]
