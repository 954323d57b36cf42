"""The errors of this package. Each message says what was expected, what came, where, and what to do."""


class AntVisionPSError(Exception):
    """Base of all errors below; the command line prints its message without a traceback."""


class ParamsError(AntVisionPSError):
    """params.yaml (or a profile) holds an unknown key, a value out of range or settings that contradict each other."""


class DataError(AntVisionPSError):
    """A data set breaks the COCO panoptic format, or a photo stands in two of its splits."""


class CacheError(AntVisionPSError):
    """A cache of predictions is missing, truncated, inconsistent, or of another schema or data set."""


class ModelError(AntVisionPSError):
    """A model cannot be built, trained or given these weights."""


class LaunchError(AntVisionPSError):
    """The processes of a stage cannot be started, or one of them failed."""


class PredictionsError(AntVisionPSError):
    """Predictions that another tool wrote break their format or do not fit the data set."""


class DownloadError(AntVisionPSError):
    """A file cannot be fetched whole, differs from the published one, or is unsafe to unpack."""


class WorkersError(AntVisionPSError):
    """Worker processes cannot be started, are lost, or have another installation than this process."""


class OutputError(AntVisionPSError):
    """What stands where a file or folder is to be written cannot be replaced, or another process writes there."""


_SHOWN = 80
"""Characters of a wrong value that a message shows."""


def clipped(value: object) -> str:
    """A wrong value for a message: one line, and not too much of it."""
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def clipped_text(text: str) -> str:
    """The same of a text, which stands as it is if it is short and plain."""
    return text if text.isprintable() and len(text) <= _SHOWN else clipped(text)


def first_line(problem: BaseException) -> str:
    """What an error of a library says, for a message of one line."""
    return str(problem).strip().partition("\n")[0] or type(problem).__name__
