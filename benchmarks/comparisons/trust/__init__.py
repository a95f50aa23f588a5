"""What load generators say and report when something goes wrong: injected faults, the same for every tool."""
