"""
The simulated engine: it answers like vLLM and TGI, with every token at a time that is known beforehand.

No model is run. Every answer says that it is simulated: `/version`, `owned_by` in `/v1/models`, `system_fingerprint`
and the `Server` header.

    settings    SimulationSettings, the faults, and the formulas for lengths and times
    connection  HTTP/1.1 on one socket
    routes      the answer to each path
    protocol    request bodies parsed or refused; the bytes of answers as vLLM and as TGI send them
    batch       slots, the queue before them, the schedule of due tokens, the prefix cache
    metrics     counters under vLLM's names, and the truth log: one JSON line a request
    server      SimulatedEngine: in an event loop, in a thread, until a signal, or as a separate process
"""

from llmload.simulator.server import SimulatedEngine, SpawnedEngine, run_until_signal, serve, spawn
from llmload.simulator.settings import SimulationSettings

__all__ = ["SimulatedEngine", "SimulationSettings", "SpawnedEngine", "run_until_signal", "serve", "spawn"]
