"""What is wrong with training data: as a whole, or with one picture of it, which the others do without."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

logger = logging.getLogger(__name__)

MAX_BAD_PICTURES = 100


class DataError(ValueError):
    """The training data cannot be used; the message names the file and what was expected."""


class BadPicture(ValueError):
    """One picture, or its caption, cannot be used; the message says why."""


@dataclass
class BadPictures:
    """The pictures that are left out: each is named in one warning, and too many of them are an error.

    reasons: why, by the picture's name. limit: how many are put up with.
    """

    limit: int = MAX_BAD_PICTURES
    reasons: dict[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.reasons)

    def leave_out(self, name: str, reason: object) -> None:
        """Count a picture, once.

        Raises:
            DataError: it is one more than the limit.
        """
        if name in self.reasons:
            return
        self.reasons[name] = str(reason)
        logger.warning("%s: left out: %s", name, reason)
        if len(self) > self.limit:
            raise DataError(
                f"max_bad_pictures: {len(self)} pictures cannot be used, more than {self.limit}; the last is {name} "
                f"({reason}); `deltaconv check` lists all of them"
            )
