"""Whether a W&B run is online: only with a login that has a valid form and a server that answers; never a prompt."""

import os
import ssl
import threading
import urllib.error
import urllib.request

ALIASES = {"dryrun": "offline", "run": "online"}  # W&B's own
MODES = ("online", "offline", "disabled")
PATIENCE = 4.0  # seconds for the server's first answer


def wandb_mode(chosen: str | None) -> str:
    """What the user set, else online if logged in; offline, with one line that says why, where online cannot be.

    Raises ValueError for an unknown mode.
    """
    given = chosen or mode_of_environment()
    mode = ALIASES.get(given, given) if given else None
    if mode not in (None, *MODES):
        raise ValueError(f"logger.mode={given!r} is unknown; expected {', '.join(MODES)}.")
    if mode in ("offline", "disabled"):
        return str(mode)
    why = obstacle()
    if why is None:
        return "online"
    print(f"W&B: {why}, so this run is kept offline; `make dashboard` browses it, `wandb sync` uploads it.", flush=True)
    return "offline"


def mode_of_environment() -> str | None:
    """The mode that the environment asks for, by WANDB_MODE or by WANDB_DISABLED."""
    disabled = os.environ.get("WANDB_DISABLED", "").lower() in ("true", "1", "yes")
    return os.environ.get("WANDB_MODE") or ("disabled" if disabled else None)


def obstacle() -> str | None:
    """Why no run can be online now, None if one can; within seconds."""
    os.environ.setdefault("WANDB_SILENT", "true")  # else a login asks the server whose it is, and waits
    import wandb
    from wandb.errors import Error
    from wandb.sdk import wandb_setup

    mode = os.environ.pop("WANDB_MODE", None)  # `wandb.login` takes an offline one for no login
    try:
        if not wandb.login(prompt=False, verify=False):
            return "not logged in"
        url = str(wandb_setup.singleton().settings.base_url)
    except (Error, ValueError) as error:  # a key of another form, say; the sentence does not have the key
        return f"the login cannot be used ({error})"
    finally:
        if mode is not None:
            os.environ["WANDB_MODE"] = mode
    return None if answers(url) else f"no answer from {url} within {PATIENCE:g} s"


def answers(url: str) -> bool:
    """Whether a server answers, whatever it says; through the proxy of the environment, if there is one."""
    heard = threading.Event()

    def ask() -> None:
        try:
            urllib.request.build_opener().open(url, timeout=PATIENCE).close()
            heard.set()
        except urllib.error.HTTPError:
            heard.set()
        except urllib.error.URLError as error:
            if isinstance(error.reason, ssl.SSLError):  # there is one; W&B has certificates of its own
                heard.set()
        except (OSError, ValueError):
            pass
        done.set()

    done = threading.Event()
    threading.Thread(target=ask, daemon=True).start()  # the look-up of a name has no limit of its own
    done.wait(PATIENCE)
    return heard.is_set()
