"""Requirements on whole runs: nothing lost, nothing late, in every setting."""
