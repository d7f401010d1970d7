import json
from itertools import islice

import pytest

from k2run.adapters.kafka.form import Template, template_of
from k2run.k2.trade_generator import SYMBOLS, TRADE, trades
from k2run.language.quantities import Misread


def test_the_same_seed_makes_the_same_market():
    def market(seed: int) -> list:
        made = [json.loads(value) for _, value in islice(trades("p-", seed, SYMBOLS), 200)]
        return [(t["symbol"], t["price"], t["quantity"], t["side"]) for t in made]

    assert market(5) == market(5) != market(6)


def test_a_template_is_found_by_its_name_and_a_mistyped_one_is_refused() -> None:
    assert template_of(Template.parse("trade")) is TRADE
    with pytest.raises(Misread) as caught:
        Template.parse("trades")
    assert caught.value.hint == "did you mean `trade`?"
