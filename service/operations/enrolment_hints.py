"""What can be done about a refusal around device enrolment and its files: one sentence for each. Part of hints.py."""

from __future__ import annotations

_ANSWER = (
    "The answer does not fit what was asked: `firstlight enrolment show ORDER` says what is open; ask the provider."
)

ENROLMENT_HINTS: dict[str, str] = {
    # Orders
    "dispatch_illegal": "Correct the field that is named and post the whole order again: nothing of it was taken.",
    "dispatch_many": "Post the orders in several requests.",
    "dispatch_token_wrong": "`firstlight enrolment dispatch-token` makes a new token for the business system.",
    "enrolment_doubtful": "`firstlight enrolment adopt ORDER` looks what the provider holds; then it can be given back.",
    "enrolment_state": "`firstlight enrolment show ORDER` says where it is: wait for the answer, or `adopt` what is there.",
    "line_unknown": "Name a line that the sales order has.",
    "order_enrolled": "`firstlight enrolment void ORDER` first, then enrol it with the other provider or organisation.",
    "order_without_provider": "Dispatch the order with an enrolment first: there is nothing to compare.",
    "serial_missing": "Name the serials of the units that come back.",
    "token_missing": "Give the token as `Authorization: Bearer TOKEN`.",
    # Providers
    "provider_adaptor": "`firstlight enrolment provider list` shows how each is spoken to; of files say --holds yourself.",
    "provider_exists": "`firstlight enrolment provider list` shows it; take another id.",
    "provider_id_illegal": "Take an id of 1 to 64 of A-Z a-z 0-9 . _ -.",
    "provider_incomplete": "Give --url and --account for the adaptor dep, --recipient and --signer for files.",
    "provider_token_wrong": "`firstlight enrolment provider token PROVIDER` makes a new token; a disabled provider has none.",
    "provider_unreachable": "Look at the provider's url and this machine's network; open transactions are asked about again.",
    "url_illegal": "Give an https URL without login and query; plain http only for this machine.",
    # What providers answer
    "answer_impossible": _ANSWER,
    "batch_exists": "The file was loaded before under this identifier; a new answer needs a new one.",
    "device_foreign": _ANSWER,
    "document_age": "Ask who made it for a document of today; `firstlight config show` says how old one may be.",
    "document_illegal": "The file is not in the form of its interface: ask who made it to correct the field that is named.",
    "order_foreign": _ANSWER,
    "provider_answer": "The provider does not answer as agreed: ask them, with the transaction and the time.",
    "provider_foreign": "The file names another provider than its folder: whoever sends it has to put it in their own.",
    "transaction_foreign": _ANSWER,
    "transaction_none": "`firstlight enrolment show ORDER` says where it is; `retry` asks once more for what failed.",
    "transaction_unknown": "Nothing was sent under this reference: ask the provider what they answer to.",
    # Signed and encrypted files
    "certificate_unreadable": "Give a certificate in PEM.",
    "cms_too_large": "Send the content in several smaller files.",
    "cms_unreadable": "Have it encrypted to what `firstlight enrolment certificate` prints, and sent again.",
    "file_unreadable": "Make the file readable for the service's user; links are not followed.",
    "keyholder_exists": "Keep it: files are on their way that were encrypted to this key.",
    "keyholder_missing": "`firstlight enrolment certificate` makes the key for files.",
    "keyholder_open": "chmod 600 the key if nobody else has read it; else make a new one and give its certificate to the partners.",
    "keyholder_unknown": "`firstlight enrolment key list` names them; only one of before can be retired.",
    "keyholder_unreadable": "Restore every enrolment/own.* of the data directory from one backup.",
    "recipient_key": "Ask the partner for a certificate with an RSA key of at least 2048 bits.",
    "signature_unknown": "Put the signature beside the file, as .p7s or .sig.",
    "signer_expired": "Ask the partner for their new certificate: `firstlight enrolment provider set PROVIDER --signer FILE`.",
    "signer_key": "Ask the partner to sign with RSA of at least 2048 bits, ECDSA or Ed25519.",
    "signer_missing": "`firstlight enrolment provider set PROVIDER --signer FILE`: nothing of it can be believed without.",
}
