"""Every error that this package raises on purpose. Each message says what was expected, what came, where, and what
to do about it."""


class AntVisionPSError(Exception):
    """Base of all errors below; the command line prints its message without a traceback."""


class ParamsError(AntVisionPSError):
    """params.yaml (or a profile) holds an unknown key, a value out of range or settings that contradict each other."""


class DataError(AntVisionPSError):
    """A data set breaks the COCO panoptic format, or its splits leak."""


class CacheError(AntVisionPSError):
    """A prediction cache is missing, truncated, of another schema, of another data set or inconsistent in itself."""


class ModelError(AntVisionPSError):
    """A model cannot be built, trained or given these weights."""


class LaunchError(AntVisionPSError):
    """The processes of a stage cannot be started, or one of them failed."""


class PredictionsError(AntVisionPSError):
    """Predictions that another tool wrote break their format or do not fit the data set."""


class DownloadError(AntVisionPSError):
    """A file cannot be fetched whole, is not what was published, or is unsafe to unpack."""


class WorkersError(AntVisionPSError):
    """Processes that share the work on images cannot be had, are lost, or are not installed as this one is."""
