"""Why a score is what it is: contributions, expected values, counterfactuals. Pure."""
