// The pages of the front. The chat is page.html, laid into the program by the build.
#include "serve/http/http_int.h"

const char page_html[] = {
#include "serve/http/page_html.inc"
};
const size_t page_html_size = sizeof page_html;

const char page_key_html[] =
    "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content=\"width=device-width\">"
    "<title>brigade</title><style>body{font:16px/1.5 system-ui,sans-serif;margin:20vh "
    "auto;max-width:24rem;padding:1rem}"
    "input,button{font:inherit;padding:.4rem .6rem}</style>"
    "<form method=get action=\"/\"><p>This server asks for a key. It was printed where the server was started."
    "<p><input name=key type=password autofocus required aria-label=Key> <button>Open</button></form></html>";
