"""The agent's asyncio side: session, tasks, database, drivers. It decides nothing."""
