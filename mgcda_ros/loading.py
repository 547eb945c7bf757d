"""A predictor that is opened in a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable

from mgcda_core.inference.predictor import Predictor

JOIN_TIMEOUT_S = 1.0


class Loading:
    """Opens a predictor; whoever waits looks at `done`."""

    def __init__(self, open_predictor: Callable[[], Predictor]) -> None:
        self.predictor: Predictor | None = None
        self.error: Exception | None = None
        self.abandoned = False
        """True once nobody waits for it: what it opens is let go."""
        self._open = open_predictor
        self._thread = threading.Thread(target=self._run, name="mgcda-load", daemon=True)
        self._thread.start()

    @property
    def done(self) -> bool:
        """True once `predictor` or `error` is there."""
        return self.predictor is not None or self.error is not None

    def stop(self) -> bool:
        """Forget it; False if its thread is still at work."""
        self.abandoned = True
        self._thread.join(JOIN_TIMEOUT_S)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            predictor = self._open()
            if not self.abandoned:
                self.predictor = predictor
        except Exception as error:  # whatever it is, the node has another predictor or says so
            self.error = error
