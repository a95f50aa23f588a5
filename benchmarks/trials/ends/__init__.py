"""Every kind of end of a run, in one process and in several, held to what is expected for it."""
