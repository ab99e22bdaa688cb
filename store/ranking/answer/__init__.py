"""The answer of a ranking: groups, reasons of those not ranked, descriptions, effects of other prices."""
