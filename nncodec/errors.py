"""The exceptions of nncodec; every message says the fact, the value and the remedy.

NncodecError
|- InputError             a picture or option that cannot be used
|- FormatError            bytes that are not a decodable .aec file
|  |- NotAecError           no .aec file at all
|  |- UnsupportedError      a newer version or a feature this build lacks
|  |- CorruptError          damaged: truncated, flipped, inconsistent
|  '- LimitError            sound, but over a limit of this decoder
'- ModelError             weights
   |- ModelNotFoundError    no installed weights of that name or id
   '- ModelMismatchError    a weights file that is damaged or does not fit

PictureWarning (a UserWarning) says what of a picture cannot be kept.
"""


class NncodecError(Exception):
    """Base of every error nncodec raises on purpose."""


class InputError(NncodecError):
    """A picture, path or option cannot be used."""


class FormatError(NncodecError):
    """The bytes are not a decodable .aec file."""


class NotAecError(FormatError):
    """The bytes do not start like an .aec file."""


class UnsupportedError(FormatError):
    """The file needs a feature or version that this build lacks."""


class CorruptError(FormatError):
    """The file is damaged."""


class LimitError(FormatError):
    """The file asks for more than this decoder allows."""


class ModelError(NncodecError):
    """Something about the weights."""


class ModelNotFoundError(ModelError):
    """No installed weights have that name or id."""


class ModelMismatchError(ModelError):
    """A weights file is damaged or does not fit its own description."""


class PictureWarning(UserWarning):
    """Something of a picture cannot be kept: frames but the first, a CMYK picture's inks."""
