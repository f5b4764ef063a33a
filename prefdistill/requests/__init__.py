"""What every paid call shares: cache, claims, limits, retries, prices, budget, and how a server likes to be asked.

Read `layer` first: a teacher, judge or sampler hands it `calls` and gets outcomes. `chat`, `dialect` and `answers` word
requests for OpenAI-compatible servers and read their replies; `reply_cache` and `claims` keep what was paid for and who
is asking; `limits`, `till`, `spending` and `prices` keep to rates and budget.
"""
