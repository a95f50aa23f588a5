"""What every table of a scenario is."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]


class Table(BaseModel):
    """A table of the file: a misspelt key is an error, since it would silently lose its setting."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, protected_namespaces=())
