"""Run folders that are damaged or hostile, and what each output of `llmload` makes of them."""
