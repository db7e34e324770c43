# frozen_string_literal: true

# The design that cofferdam comes from, as its author would tune it: a job makes the machine, a
# webhook takes the result, a job stores it and tears the machine down.

require "json"
require "net/http"
require "openssl"
require "securerandom"
require "sidekiq"

redis = { url: ENV.fetch("REDIS_URL"), size: 15 }
Sidekiq.configure_server do |config|
  config.redis = redis
  config.logger.level = Logger::WARN
end
Sidekiq.configure_client { |config| config.redis = redis }

# The Machines API over one connection for each thread, which is kept.
class Machines
  PATH = "/v1/apps/bench/machines"

  def self.for_this_thread
    Thread.current[:machines] ||= new(URI(ENV.fetch("FLY_API_URL")))
  end

  def initialize(uri)
    @http = Net::HTTP.new(uri.host, uri.port)
    @http.keep_alive_timeout = 30
    @http.start
  end

  def create(body) = call(Net::HTTP::Post.new(PATH), body)
  def get(id) = call(Net::HTTP::Get.new("#{PATH}/#{id}"))
  def delete(id) = call(Net::HTTP::Delete.new("#{PATH}/#{id}"))

  def wait(id, instance)
    call(Net::HTTP::Get.new("#{PATH}/#{id}/wait?state=stopped&instance_id=#{instance}&timeout=5"))
  end

  private

  def call(request, body = nil)
    request["Authorization"] = "Bearer bench"
    if body
      request["Content-Type"] = "application/json"
      request.body = JSON.generate(body)
    end
    response = @http.request(request)
    raise "#{request.method} #{request.path}: #{response.code}" if response.code.to_i >= 400

    JSON.parse(response.body)
  end
end

# Makes a run's machine.
class RunJob
  include Sidekiq::Job
  sidekiq_options queue: "runs"

  def perform(id, request)
    asked = JSON.parse(request)
    token = SecureRandom.hex(32)
    Sidekiq.redis { |redis| redis.hset("run:#{id}", "state", "booting", "token", token) }
    machine = Machines.for_this_thread.create(
      name: "sandbox-#{id}",
      config: {
        image: asked["image"], init: { cmd: asked["cmd"] }, restart: { policy: "no" },
        auto_destroy: true, guest: { cpu_kind: "shared", cpus: 1, memory_mb: 512 },
        env: {
          SANDBOX_RUN_ID: id, SANDBOX_RUN_TOKEN: "#{id}.#{token}",
          SANDBOX_RESULT_URL: ENV.fetch("RESULT_URL")
        }
      }
    )
    Sidekiq.redis { |redis| redis.hset("run:#{id}", "state", "running", "machine", machine["id"]) }
  end
end

# Stores a result and tears the machine down.
class ResultJob
  include Sidekiq::Job
  sidekiq_options queue: "results"

  class NotYet < StandardError; end

  def perform(id, result)
    machine = Sidekiq.redis { |redis| redis.hget("run:#{id}", "machine") }
    # The guest was faster than the answer of the create call: the job is tried again.
    raise NotYet unless machine

    Sidekiq.redis do |redis|
      redis.xadd("cofferdam:results", { run_id: id, outcome: "completed", result: result })
      redis.hset("run:#{id}", "state", "settled")
    end
    machines = Machines.for_this_thread
    instance = machines.get(machine)["instance_id"]
    machines.wait(machine, instance)
    machines.delete(machine)
    Sidekiq.redis do |redis|
      redis.hset("run:#{id}", "state", "closed")
      redis.expire("run:#{id}", 86_400)
    end
  end
end
