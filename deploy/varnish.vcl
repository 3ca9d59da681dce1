vcl 4.1;

# Varnish in front of one Freshet node or of several. Yours to change: what is marked "here"; the rest is as it has to be.
# Start the nodes with TRUST_PROXY=1, or all clients share one address and one RATE_LIMIT; and Varnish with
#   varnishd -a :80 -f varnish.vcl -s malloc,256m -p timeout_idle=75

import directors;
import std;

# here: the nodes. For another one copy this and add it below.
backend node_1 {
    .host = "127.0.0.1";
    .port = "8080";
    .connect_timeout = 2s;
    # Above the 25 s of the longest held poll.
    .first_byte_timeout = 40s;
}

sub vcl_init {
    new nodes = directors.round_robin();
    nodes.add_backend(node_1);
}

sub vcl_recv {
    set req.backend_hint = nodes.backend();
    # Prometheus asks the nodes themselves.
    if (req.url ~ "^/metrics/?(\?|$)") {
        return (synth(404));
    }
    if (req.url ~ "^/v1/(channels/[^/?]+/)?stream/?(\?|$)") {
        # A stream does not end: as a pipe it takes one thread and no storage. A pipe whose node is gone is closed without an
        # answer, after which EventSource comes back, as it would not after a 503.
        return (pipe);
    }
    # Shared is what says whose state it starts from. A held poll is somebody's own.
    if (req.url !~ "^/v1/channels/[^/?]+/changes/?\?(.*&)?since=" || req.url ~ "[?&]wait=" || req.http.Prefer) {
        return (pass);
    }
    # Cookies are of other pages of this address; a Freshet node reads none. Requests with Authorization are passed.
    unset req.http.Cookie;
}

sub vcl_pipe {
    # What comes after the stream on the same connection must not slip past the rules above.
    set bereq.http.Connection = "close";
}

sub vcl_hash {
    hash_data(req.url);
    return (lookup);
}

sub vcl_backend_response {
    # Nothing is served after its second, and nothing asked for "if it has changed": a kept body would bring its old advice along.
    set beresp.grace = 0s;
    set beresp.keep = 0s;
    set beresp.do_gzip = beresp.http.Content-Type ~ "json|text|javascript|yaml|svg";
    # A node that is shutting down: the next one may answer.
    if (beresp.status == 503 && bereq.retries == 0) {
        return (retry);
    }
}

sub vcl_backend_error {
    if (bereq.retries == 0) {
        return (retry);
    }
    # Seconds until a client should try again, not the same for all.
    set beresp.http.Retry-After = std.integer(real = std.random(2, 7));
    set beresp.http.Access-Control-Allow-Origin = "*";
    set beresp.http.Cache-Control = "no-store";
    set beresp.http.Content-Type = "application/problem+json";
    set beresp.http.Vary = "Prefer, Accept-Encoding";
    set beresp.body = """{"type":"/docs#draining","title":"Shutting down","status":503,"detail":"No node answers.","hint":"Wait for Retry-After and ask again.","code":"draining"}""";
    return (deliver);
}
