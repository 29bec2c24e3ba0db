"""Whether an Ed25519 signature fits: the one place in the core that asks the crypto port.

Owns what a port's answer means. Decides nothing about what follows from a signature that cannot be verified here.
Runs on MicroPython.
"""

from device_sdk.core.ports import WrongSignatureError

TYPE_CHECKING = False  # a checker takes it for typing's, which MicroPython lacks
if TYPE_CHECKING:
    from device_sdk.core.ports import Crypto


def verify(crypto: "Crypto", public_key: bytes, message: bytes, signature: bytes) -> None:
    """That it fits. Raises WrongSignatureError; NoEd25519Error where this device cannot tell.

    A port says no by raising, so one that answers anything, False or True, does not know that: whatever it answers is
    a no. It is then found out with the first signature that is good, not with the first that is forged.
    """
    answer: object = crypto.verify_ed25519(public_key, message, signature)  # type: ignore[func-returns-value]
    if answer is not None:
        raise WrongSignatureError
