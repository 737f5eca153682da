"""Processes begin one at a time: a copy of this one that is made meanwhile would keep another's beginning from its end.

`subprocess` waits until nobody holds the pipe through which a new process tells that it has begun. A copy of this
process (`os.fork`) holds what is open in it, also what another thread has opened for a process of its own, as long as
the copy lives; and two that wait for each other's answers wait for ever.
"""

import threading

# Held while a process is begun, by whichever thread.
BEGINNING = threading.Lock()
