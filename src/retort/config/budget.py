"""What a run may take at most."""

from pydantic import PositiveFloat, model_validator

from retort.config.fields import Section


class Budget(Section):
    """What a run may take at most, by the estimate of `retort plan`; the label depth follows from it.

    The precision that was found is kept with it.
    `hours` on this machine, of one process; `money` of teachers behind servers, in the currency of their prices.
    """

    hours: PositiveFloat | None = None
    money: PositiveFloat | None = None

    @model_validator(mode="after")
    def _bounds_something(self) -> "Budget":
        if self.hours is None and self.money is None:
            raise ValueError("a budget without a bound chooses nothing: give hours, money or both")
        return self
