"""Real process groups: a script as several ranks of one run on this machine, over gloo."""

import socket

from forked import script_beside


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def run_ranks(script, folder, world, *arguments, seconds=300):
    """`python script folder *arguments` as `world` ranks; fails with what they said unless all end well."""
    facts = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "WORLD_SIZE": str(world),
        "NODE_RANK": "0",
        "GLOO_SOCKET_IFNAME": "lo",
    }
    processes = [script_beside(script, folder, *arguments, LOCAL_RANK=str(rank), **facts) for rank in range(world)]
    try:
        answers = [process.answer(seconds) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [answer.code for answer in answers] == [0] * world, "\n".join(answer.said for answer in answers)
