"""What can be done about a refused change of partner services: one sentence for each cause. Part of hints.py."""

from __future__ import annotations

PARTNER_HINTS: dict[str, str] = {
    "box_not_linked": "`firstlight stb list --service NAME` shows which boxes are whose.",
    "offer_text_illegal": "Give names of 1 to 128 printable characters.",
    "offer_unknown": "`firstlight partner offer list SERVICE` shows what can be bought.",
    "partner_address_illegal": "Give one address, or a network with its bits such as 192.0.2.0/24.",
    "partner_address_unknown": "`firstlight partner service list` shows from where each may ask.",
    "partner_addresses_full": "Allow a network instead of its single addresses.",
    "partner_exists": "Take another name, or `firstlight partner service rotate` for a new token.",
    "partner_group_kind": "`firstlight group create NAME --product P --key-kind public_key` makes such a group.",
    "partner_keys_illegal": "Give --min-keys 1 to 8.",
    "partner_name_illegal": "Take a name of 1 to 32 of a-z 0-9 -.",
    "partner_unknown": "`firstlight partner service list` names them.",
    "provider_timeout_illegal": "Give --timeout-s 1 to 60.",
    "provider_unknown": "`firstlight partner provider list` names them, `provider set` makes one known.",
    "provider_url_missing": "`firstlight partner provider list` names those that there are; a new one needs --url.",
    "purchase_refused": "`firstlight partner purchase list SERVICE` shows what was granted; the user may buy it anew.",
    "purchase_running": "Wait until the provider has answered or its time is over, and end it then.",
    "purchase_unknown": "`firstlight partner purchase list SERVICE` shows the ids.",
    "refused": "The access provider refused the purchase: ask them why; nothing was bought.",
    "silent": "The access provider did not answer in time: `firstlight partner provider set --timeout-s`, or ask them; it is asked again.",
    "provider_url_illegal": "Give an https URL; plain http only for this machine, and no password in it.",
    "unreachable": "Look at the access provider's URL and this machine's network; the purchase is asked for again.",
}
