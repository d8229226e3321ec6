"""Consumer-driven contracts, with Pact: what each service needs of the others, tested on both sides.

    drafts.py       how an expectation of a consumer is tried on its real code, and becomes an interaction of a pact
    order.py ...    what each service expects of those that it calls, and of the events that it handles
    relays.py       what whoever publishes expects of `POST /events`
    interactions.py all of them together
    services.py     the real services, in this process
    providers.py    how a provider is brought into the state that an interaction supposes, and asked
    bugs.py         mistakes of providers, each of which a pact must notice
    documents.py    the pacts in docs/pacts, and the tables of docs/contracts.md

`.tox/contract/bin/python -m tests.contract.pacts` writes the pacts and the tables again. docs/contracts.md is the guide.
"""

import os

os.environ["PACT_DO_NOT_TRACK"] = "true"
