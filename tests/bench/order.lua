-- What wrk sends: an order that nobody has sent before, each time. What it counts: answers other
-- than 201. TOKENS is a file with the token of each wallet's owner in a line. At the end it prints one line of JSON, which tests/src/bench/wrk.rs reads.
--
--   wrk ... -s order.lua URL -- PREFIX uniform|hot WALLETS PRODUCTS UNIT_PRICE|quote [TOKENS]
--   wrk ... -s order.lua URL/healthz -- healthz

local threads = {}

function setup(thread)
  table.insert(threads, thread)
  thread:set("number", #threads)
end

function init(args)
  -- Read back in done() as a global of the thread's.
  unexpected = 0
  if args[1] == "healthz" then
    return
  end
  local prefix, is_hot = args[1] .. "-" .. number .. "-", args[2] == "hot"
  local wallets, products = tonumber(args[3]), tonumber(args[4])
  local price = args[5] == "quote" and "" or ',"unit_price":' .. args[5]
  local head = "POST /orders HTTP/1.1\r\nHost: " .. wrk.headers["Host"]
    .. "\r\nContent-Type: application/json\r\nContent-Length: "
  local lines = {}
  if args[6] then
    for token in io.lines(args[6]) do
      lines[#lines + 1] = "\r\nAuthorization: Bearer " .. token
    end
  end
  local made = 0
  math.randomseed(number)

  function request()
    made = made + 1
    local product = is_hot and 1 or math.random(products)
    local wallet = math.random(wallets)
    local body = '{"id":"' .. prefix .. made .. '","user":"u' .. wallet
      .. '","product":"p' .. product .. '","quantity":1' .. price .. "}"
    return head .. #body .. (lines[wallet] or "") .. "\r\n\r\n" .. body
  end

  function response(status)
    if status ~= 201 then
      unexpected = unexpected + 1
    end
  end
end

function done(summary, latency)
  local others = 0
  for _, thread in ipairs(threads) do
    others = others + thread:get("unexpected")
  end
  local errors = summary.errors
  -- Without response(), wrk itself counts statuses from 400 on.
  others = math.max(others, errors.status)
  io.write(string.format(
    '{"requests":%d,"unexpected":%d,"broken":%d,"duration_us":%d,"p50_us":%d,"p99_us":%d,"p999_us":%d,"max_us":%d}\n',
    summary.requests, others, errors.connect + errors.read + errors.write + errors.timeout, summary.duration,
    latency:percentile(50), latency:percentile(99), latency:percentile(99.9), latency.max))
end
