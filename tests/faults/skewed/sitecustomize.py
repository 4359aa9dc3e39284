"""For processes under libfaketime, whose clock_nanosleep fails where the steady clock is left alone."""

import threading
import time


def sleep(seconds: float) -> None:
    threading.Event().wait(seconds)


time.sleep = sleep
