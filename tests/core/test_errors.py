import pytest

from genmm.core import errors


def test_every_error_is_a_genmm_error_with_an_exit_code():
    for name in errors.__all__:
        kind = getattr(errors, name)
        assert issubclass(kind, errors.GenmmError)
        assert kind.exit_code == (130 if name == "Cancelled" else 2)


@pytest.mark.parametrize("name", ["UsageError", "ShapeError", "ConfigError"])
def test_wrong_arguments_are_value_errors_too(name):
    with pytest.raises(ValueError, match="as given"):
        raise getattr(errors, name)("as given")


def test_a_limit_is_a_media_error():
    assert issubclass(errors.LimitError, errors.MediaError)


def test_cancelled_needs_no_text():
    assert str(errors.Cancelled()) == "cancelled"
