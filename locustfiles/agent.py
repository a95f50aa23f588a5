"""An agent that calls a tool: `locust -f locustfiles/agent.py --headless -u 20 -t 1m --host URL`."""

import json

from llmload import LlmUser, ToolCall, between, task

MOST_STEPS = 4
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "The weather of a city, now",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        },
    }
]


def weather(call: ToolCall) -> str:
    """Return what the tool says; a model may write arguments that are not JSON."""
    try:
        city = json.loads(call.arguments)["city"]
    except (ValueError, KeyError, TypeError):
        return "error: give the city as JSON"
    return f"{city}: 21 degrees, rain from four o'clock on"


class Agent(LlmUser):
    """Each task is one run of an agent: the model answers, or calls the tool and gets its result."""

    wait_time = between(1, 3)

    @task
    def forecast(self) -> None:
        """Ask until the model calls no tool any more; each further step has its own row."""
        answer = self.llm.chat("Do I need an umbrella in Dublin today?", tools=TOOLS, max_tokens=128, name="first step")
        for _ in range(MOST_STEPS):
            if not answer.tool_calls:
                break
            results = [call.result(weather(call)) for call in answer.tool_calls]
            answer = self.llm.chat(answer.then(*results), tools=TOOLS, max_tokens=128, name="after a tool")
