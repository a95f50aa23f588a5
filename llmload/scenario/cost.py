"""What the deployment costs, as its operator knows it: by time, by tokens, by energy."""

from typing import Self

from pydantic import Field, model_validator

from llmload.scenario.table import NotNegative, Positive, Table


class Cost(Table):
    """Prices in one currency; each kind of price gives a cost of its own, since they are rarely paid together."""

    currency: str = Field(min_length=1)
    """What the prices are in, as it is to be printed."""
    price_per_hour: Positive | None = None
    """Of the whole deployment."""
    price_per_gpu_hour: Positive | None = None
    """Of each of `deployment.gpus`."""
    price_per_million_input_tokens: NotNegative | None = None
    price_per_million_output_tokens: NotNegative | None = None
    price_per_kwh: Positive | None = None
    """Of the energy that the GPUs' own counters tell of (`monitor.dcgm_url`)."""

    @model_validator(mode="after")
    def _prices_agree(self) -> Self:
        prices = {name: getattr(self, name) for name in type(self).model_fields if name != "currency"}
        if all(price is None for price in prices.values()):
            raise ValueError(f"needs a price: {', '.join(prices)}")
        if self.price_per_hour is not None and self.price_per_gpu_hour is not None:
            raise ValueError("price_per_hour is the whole deployment's: leave it or price_per_gpu_hour out")
        if (self.price_per_million_input_tokens is None) != (self.price_per_million_output_tokens is None):
            raise ValueError("price_per_million_input_tokens and price_per_million_output_tokens belong together")
        return self
