"""`firstlight partner provider|offer|purchase`: what users of a partner service can buy, who grants it, what they bought."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from service.cli import context
from service.errors import Secret
from service.operations.partners import offers, purchases
from service.operations.partners.offers import ProviderKind

provider_app = typer.Typer(help="Systems that grant access to what is bought.", no_args_is_help=True)
offer_app = typer.Typer(help="What can be bought, and what the provider calls it.", no_args_is_help=True)
purchase_app = typer.Typer(help="What users have bought.", no_args_is_help=True)
ServiceArgument = Annotated[str, typer.Argument(help="The partner service.")]
ProductArgument = Annotated[str, typer.Argument(help="The partner's product_id.")]
OptionArgument = Annotated[str, typer.Argument(help="The partner's option_id.")]


@provider_app.command("set")
def set_provider(
    name: Annotated[str, typer.Argument()],
    url: Annotated[
        str | None, typer.Option(help="Where its SOAP service listens; https but on this machine. A new one needs it.")
    ] = None,
    kind: Annotated[ProviderKind | None, typer.Option(help="What it grants; conditional_access for a new one.")] = None,
    account: Annotated[
        str | None, typer.Option(help="Who we are there; an empty one takes account and password away.")
    ] = None,
    secret: Annotated[
        str | None, typer.Option(envvar="FIRSTLIGHT_PROVIDER_SECRET", help="Its password; give it in the environment.")
    ] = None,
    timeout_s: Annotated[
        int | None, typer.Option(help="How long a purchase waits for it, in seconds; 10 for a new one.")
    ] = None,
    as_json: context.JsonOption = False,
) -> None:
    """Make an access provider known, or change it: what is not given stays as it is."""
    password = None if secret is None else Secret(secret.encode())
    context.run(
        lambda database: offers.set_provider(
            database, name, url=url, kind=kind, account=account, secret=password, timeout_s=timeout_s
        )
    )
    context.done({"provider": name, "set": True}, as_json=as_json)


@provider_app.command("list")
def list_providers(as_json: context.JsonOption = False) -> None:
    """Every access provider; never a password."""
    found = context.run(offers.list_providers)
    rows = [
        [one.name, one.kind.value, one.url, one.account or "-", "set" if one.has_password else "-", str(one.timeout_s)]
        for one in found
    ]
    columns = ["provider", "kind", "URL", "account", "password", "seconds"]
    context.emit(found, as_json=as_json, text=lambda: context.table("Access providers", columns, rows))


@offer_app.command("set")
def set_offer(
    service: ServiceArgument,
    product: ProductArgument,
    option: OptionArgument,
    provider: Annotated[str, typer.Option(help="Who grants it.")],
    package: Annotated[str, typer.Option(help="What the provider calls it.")],
    as_json: context.JsonOption = False,
) -> None:
    """Say who grants a product's option."""
    context.run(
        lambda database: offers.set_offer(database, service, product, option, provider=provider, package=package)
    )
    offer = {"service": service, "product_id": product, "option_id": option}
    context.done({**offer, "provider": provider, "package": package}, as_json=as_json)


@offer_app.command("list")
def list_offers(service: ServiceArgument, as_json: context.JsonOption = False) -> None:
    """What can be bought."""
    found = context.run(lambda database: offers.list_offers(database, service))
    rows = [[one.product_id, one.option_id, one.provider, one.package] for one in found]
    columns = ["product", "option", "provider", "package"]
    context.emit(found, as_json=as_json, text=lambda: context.table("Offers", columns, rows))


@offer_app.command("remove")
def remove_offer(
    service: ServiceArgument, product: ProductArgument, option: OptionArgument, as_json: context.JsonOption = False
) -> None:
    """Nobody buys it any more; what was bought stays bought."""
    context.run(lambda database: offers.remove_offer(database, service, product, option))
    offer = {"service": service, "product_id": product, "option_id": option}
    context.done({**offer, "removed": True}, as_json=as_json)


@purchase_app.command("list")
def list_purchases(
    service: ServiceArgument,
    email: Annotated[str | None, typer.Option(help="Of this user only.")] = None,
    after: Annotated[str, typer.Option(help="Go on after this id.")] = "",
    as_json: context.JsonOption = False,
) -> None:
    """A thousand purchases, in the order in which they were begun."""
    found = context.run(lambda database: purchases.list_page(database, service, email=email, after=after))
    rows = [
        [one.purchase_id, one.email, one.product_id, one.option_id, one.provider, one.package, one.state.value]
        for one in found
    ]
    columns = ["id", "user", "product", "option", "provider", "package", "state"]
    context.emit(found, as_json=as_json, text=lambda: context.table("Purchases", columns, rows))


@purchase_app.command("end")
def end_purchase(
    service: ServiceArgument,
    purchase: Annotated[str, typer.Argument(help="Its id.")],
    as_json: context.JsonOption = False,
) -> None:
    """A subscription is over: the next buy asks the provider again. The provider is told nothing of the end."""
    context.run(lambda database: purchases.end(database, service, purchase, now=datetime.now(UTC)))
    context.done({"service": service, "purchase": purchase, "ended": True}, as_json=as_json)
