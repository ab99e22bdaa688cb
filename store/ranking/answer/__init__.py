"""What a ranking answers: groups, reasons of those not ranked, descriptions, effects of other prices."""
