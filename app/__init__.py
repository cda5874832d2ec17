"""Postback: a self-hosted webhook callback receiver for image-edit APIs.

The map, top to bottom; an import only ever points down:

    client, web, worker, sandbox, demo   edges: the command line's client, HTTP in, the job loop, the
                                 pretend provider, the demonstration; serving runs web under gunicorn
    actions, holds               what people do to a task; calls that are held until their result comes
    dossiers, lookalikes         what one page, and the provider's own lookup, show of a task
    push                         telling subscribers: messages, deliveries, endpoints
    edits, resends, images, reports     verbs: create and submit, recognise what comes again, store
                                 images, answer lookups (and changes, figures, keys, reconcile, results,
                                 retention)
    inbox                        the one writer of incoming callbacks
    tasks, counts, search        how a task moves; what is counted as it happens; the words of prompts
    circuits                     who outside is away and left alone
    events, jobs, uploads        what happened, as timeline and outbox; the queue; files of submissions
    placements                   objects on their way into storage
    bodies, services             large bodies; the parts below, built once from the configuration
    db, storage, outbound, providers, signing, imaging, logs, reporting     one outside thing each
    models                       the tables
    config, errors, columns, bulk, scratch, wakeups, wire   the ground floor
"""
