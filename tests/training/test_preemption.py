"""Which signals ask a run to stop, and which interrupt it."""

import os
import signal

import pytest
from lightning.pytorch import Trainer

from decm.training.callbacks.reliability.preemption import Preemption


@pytest.fixture
def listening(tmp_path):
    """The callback of a run whose training has begun, in this process."""
    callback = Preemption(tmp_path)
    callback.on_train_start(Trainer(logger=False, enable_checkpointing=False, accelerator="cpu"), None)
    yield callback
    callback.restore()


def test_a_second_ctrl_c_interrupts_at_once(listening):
    os.kill(os.getpid(), signal.SIGINT)
    assert listening.asked == "SIGINT"
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2])
def test_ctrl_c_after_another_signal_asks_to_stop_as_a_first_one_does(listening, first):
    """A launcher that hands on a signal, and the terminal that sends its own, come in any order."""
    for number in (first, first, signal.SIGINT, first):
        os.kill(os.getpid(), number)
    assert listening.asked == first.name
