"""Pure decisions of the dispatcher: planners, machines, and answers to requests."""
