"""Postback: a self-hosted webhook callback receiver for image-edit APIs.

The map, top to bottom; an import only ever points down:

    web, worker, sandbox, demo   edges: HTTP in, the job loop, the pretend provider, the demonstration
                                 (and client: the API from the command line)
    actions                      what people do to a task: cancel, retry, reconcile, resubmit, delete
    holds                        edits at providers that answer with the result: a worker holds the call
    edits, images, reports       verbs: create, submit and take in a result; store images; answer lookups
                                 (and results, reconcile, retention, keys, figures)
    inbox                        the one writer of incoming callbacks
    counts, search, tasks        what is counted as it happens; words of prompts; how a status changes
    events                       what happened to a task, told to its timeline and to whoever waits
    jobs                         enqueue, claim, heartbeat, finish, retry
    services                     the parts below, built once from the configuration
    db, storage, outbound, providers, signing, imaging     one outside thing each
    models                       the tables
    config, errors, columns, bulk, wire   the ground floor
"""
