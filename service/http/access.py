"""Access providers over SOAP: a conditional-access system, or one for DVB packages.

Owns the client (zeep) and what its failures mean; the contract stands in wsdl/entitlement.wsdl and is never fetched from
anywhere. Redirects are not followed. Implements operations/partners/entitlements.Access. zeep is loaded at the first
purchase: most installations sell nothing, and it takes tens of megabytes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from service.operations.partners.entitlements import Order, Provider, ProviderError, ProviderRefusedError

WSDL = Path(__file__).parent / "wsdl" / "entitlement.wsdl"
BINDING = "{urn:firstlight:entitlement:1}EntitlementSoap"
THREADS = 16  # requests to providers at a time; one that hangs keeps its thread until its time is over


class SoapAccess:
    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="access")

    async def granted(self, provider: Provider, order: Order) -> str | None:
        found = await self._ask(provider, lambda service: service.GetEntitlement(orderId=order.purchase_id))
        return str(found) if found else None

    async def grant(self, provider: Provider, order: Order) -> str:
        return str(
            await self._ask(
                provider,
                lambda service: service.GrantEntitlement(
                    orderId=order.purchase_id, subscriber=order.subscriber, package=order.package
                ),
            )
        )

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _ask(self, provider: Provider, call: Callable[[Any], Any]) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._threads, _call, provider, call)


def _call(provider: Provider, call: Callable[[Any], Any]) -> Any:
    """One request, in a thread. Raises ProviderRefusedError, ProviderError, TimeoutError."""
    import requests  # noqa: PLC0415 - see above
    import zeep  # noqa: PLC0415

    with requests.Session() as session:
        session.trust_env = False
        session.max_redirects = 0
        if provider.account is not None:
            session.auth = (provider.account, provider.secret.reveal().decode() if provider.secret else "")
        transport = zeep.Transport(  # type: ignore[no-untyped-call]
            session=session, timeout=provider.timeout_s, operation_timeout=provider.timeout_s
        )
        settings = zeep.Settings(strict=True, forbid_dtd=True, forbid_entities=True, forbid_external=True)
        client = zeep.Client(str(WSDL), transport=transport, settings=settings)  # type: ignore[no-untyped-call]
        try:
            return call(client.create_service(BINDING, provider.url))  # type: ignore[no-untyped-call]
        except zeep.exceptions.Fault as error:
            if str(error.code or "").rpartition(":")[2] == "Client":
                raise ProviderRefusedError from error
            raise ProviderError from error
        except requests.Timeout as error:
            raise TimeoutError from error
        except (zeep.exceptions.Error, requests.RequestException, ValueError) as error:
            raise ProviderError from error
