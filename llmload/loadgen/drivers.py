"""Which driver takes a load's steps."""

from llmload.client.engine_control import EngineControl
from llmload.loadgen.capacity_driver import CapacityDriver
from llmload.loadgen.commanded import StepTimeline
from llmload.loadgen.phases import PhaseTimeline
from llmload.loadgen.step_driver import StepDriver
from llmload.loadgen.sweep_driver import SweepDriver
from llmload.scenario import Scenario
from llmload.scenario.sweep import Sweep


def driver_of(timeline: PhaseTimeline | None, scenario: Scenario) -> StepDriver | None:
    """Return the driver of the timeline's search or sweep; None for a load that is neither."""
    if not isinstance(timeline, StepTimeline):
        return None
    if isinstance(timeline.load, Sweep):
        engine = scenario.engine
        control = EngineControl(
            name=engine.name,
            base_urls=engine.base_url,
            access=scenario.access(),
            ca_file=engine.ca_file,
            verify_tls=engine.verify_tls,
        )
        return SweepDriver(timeline.load, scenario, timeline, control)
    objectives = timeline.load.all_objectives(limits=bool(scenario.slo_limits().limits))
    return CapacityDriver(timeline.load, objectives, timeline, scenario.run.drain_timeout_s)
