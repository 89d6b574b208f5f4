"""The HTTP edge.

uvicorn ─▶ Front ─┬▶ DataPlaneRoutes   /v1/commands, /v1/query: plain ASGI, no framework
└▶ FastAPI           everything else
"""
