"""The worker's side of `nas_proxy.training.worker_pool`: read a job, perform it, write the answer, until the end.

Started by `begin`, with the number of the process to end with as its argument; not meant to be started by hand.
"""

import os
import pickle
import signal
import sys
import threading
import time

import torch

from nas_proxy import libraries
from nas_proxy.errors import CodeChangedError
from nas_proxy.process_state import ProcessState
from nas_proxy.training import memory_limit as memory
from nas_proxy.training.jobs import Work, performed
from nas_proxy.training.messages import BEGUN, PREPARE, read_frame, write_message


def main() -> None:
    """Serve jobs until stdin closes or the parent is gone."""
    # Whoever ends the whole group of processes means the coordinating one, which then stops the workers; a training
    # that died of the signal would be taken for one that fails.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(int(sys.argv[1]),), daemon=True).start()
    torch.set_num_threads(1)
    # What a candidate prints must not get between the answers.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    jobs = os.fdopen(os.dup(sys.stdin.fileno()), "rb")  # and what it closes is not where jobs come from
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    libraries.watch()
    write_message(answers, "ready")
    while True:
        try:
            frame = read_frame(jobs)
        except EOFError:
            return
        if frame == PREPARE:
            write_message(answers, memory.base())
            continue
        write_message(answers, BEGUN)  # if this process ends from here on, it may be the job's doing
        job = pickle.loads(frame)
        assert isinstance(job, Work)
        before = ProcessState.now()
        try:
            answer: object = performed(job)
        except CodeChangedError as error:  # the coordinating process raises it
            answer = error
        write_message(answers, answer)
        memory.give_back(job.device)
        if before.left_behind() or libraries.changed():  # nobody can put that back
            return


def _end_with(parent: int) -> None:
    """End this process when its parent is gone, also in the middle of a training."""
    while os.getppid() == parent:
        time.sleep(0.5)
    if os.getpgrp() == os.getpid():  # and what a network has started
        os.killpg(os.getpid(), signal.SIGKILL)
    os._exit(1)


def begin() -> None:
    """Be a worker process: what `nas_proxy.training.worker_pool` starts."""
    main()
    os._exit(0)  # whatever is left running in it
