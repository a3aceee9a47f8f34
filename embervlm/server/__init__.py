"""The server: one process that decides for many clients, over HTTP; `app.create_app` makes it.

    embervlm serve --port 8000
    curl -F image=@flood.jpg -F task="reach the people on the roof" localhost:8000/v1/select

A request passes three places. The `gate` looks at its address, origin, key and size before anything
is parsed. `routes` and `chat` turn it into a scenario. The `jobs` queue hands it to one of the
workers: an engine in a thread, or several in processes of their own (`processes`), or on other
machines (`replicas`). docs/server.md says what each part withstands.
"""
