"""`python -m llmload.loadgen`: Locust, which a signal ends in one line from the first import on."""

from locust.main import main

main()
