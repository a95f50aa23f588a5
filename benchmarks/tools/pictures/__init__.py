"""Pictures of what people look at: start form, live page, report and terminal, of runs on the simulated engine."""
