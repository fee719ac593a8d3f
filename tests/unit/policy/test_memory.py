"""What a request held is gone as soon as it has been refused, without Python's collector, which comes when it likes."""

import asyncio
import base64
import gc
import io
import weakref
from collections.abc import Iterator

import PIL.Image
import pytest
from overworld_policy.app import _unless_gone
from overworld_policy.config import PolicyServerConfig
from overworld_policy.errors import ApiError, bad_request
from overworld_policy.messages import SentImage
from starlette.types import Message


@pytest.fixture(autouse=True)
def uncollected() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


def sent(cut: int = 0) -> SentImage:
    buffer = io.BytesIO()
    PIL.Image.linear_gradient("L").resize((300, 300)).convert("RGB").save(buffer, "PNG")
    data = buffer.getvalue()
    url = f"data:image/png;base64,{base64.b64encode(data[: len(data) - cut]).decode()}"
    return SentImage(url, "messages[0].content[0]", PolicyServerConfig())


def test_an_image_that_cannot_be_read() -> None:
    image = sent(cut=200)
    kept = weakref.ref(image)
    try:
        image.read()
    except ApiError as error:
        assert error.body["error"]["code"] == "invalid_image"
    else:
        pytest.fail("it was read")
    del image
    assert kept() is None


def test_an_image_that_was_read_keeps_no_pixels_besides_those_that_it_gave() -> None:
    image = sent()
    pixels = image.read()
    assert pixels.shape == image.shape
    with pytest.raises(ValueError, match="closed"):
        image._image.getpixel((0, 0))


def test_a_refused_request() -> None:
    class Held:
        pass

    kept: list[weakref.ref[Held]] = []

    async def refuse() -> None:
        held = Held()
        kept.append(weakref.ref(held))
        raise bad_request("no")

    async def receive() -> Message:
        await asyncio.sleep(3600)
        return {"type": "http.disconnect"}

    async def play() -> None:
        try:
            await _unless_gone(receive, refuse())
        except ApiError:
            pass
        else:
            pytest.fail("it was not refused")

    asyncio.run(play())
    assert kept[0]() is None
